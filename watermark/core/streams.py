"""From stored bytes to lines: compression, line numbers, damage.

Compression is told by the first bytes, not by the name: downloads are often unpacked or renamed on
the way. Everything streams; only ``ByteStream.read_all`` holds a whole source.
"""

from __future__ import annotations

import codecs
import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from wmcheck.watermark.core.errors import InputError, MissingExtraError, RecordError
from wmcheck.watermark.core.formats import COMPRESSIONS, STDIN, unreadable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_LINE_BYTES = 1 << 26
MAX_DOCUMENT_BYTES = 1 << 30

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_BUFFER_BYTES = 1 << 16
# A zstd block of 4 bytes can unpack to 128 KiB, so small bites keep a bomb below 128 MiB a bite.
_ZSTD_BITE_BYTES = 1 << 12


class _Source(io.RawIOBase):
    """The bytes as stored, counted on the way; the first ones can be looked at."""

    def __init__(self, handle: BinaryIO, progress: Callable[[int], None] | None) -> None:
        super().__init__()
        # On a pipe, read() waits until the buffer is full; read1() hands over what has arrived.
        self._read: Callable[[int], bytes] = getattr(handle, "read1", handle.read)
        self._progress = progress
        self.consumed = 0
        self._ahead = b""
        while len(self._ahead) < 4 and (more := self._fetch(_BUFFER_BYTES)):
            self._ahead += more
        self.head = self._ahead

    def _fetch(self, size: int) -> bytes:
        data = self._read(size) or b""
        self.consumed += len(data)
        if self._progress is not None and data:
            self._progress(self.consumed)
        return data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data = self._ahead or self._fetch(len(view))
        count = min(len(view), len(data))
        view[:count] = data[:count]
        self._ahead = data[count:]
        return count


class _ZstdSource(io.RawIOBase):
    """Decompressed zstd. zstandard's own stream reader takes a truncated file for a complete one."""

    def __init__(self, packed: io.BufferedReader, name: str) -> None:
        super().__init__()
        try:
            import zstandard
        except ImportError:
            hint = "pip install 'wmcheck[zst]'"
            raise MissingExtraError("reading zstd needs zstandard", where=name, hint=hint) from None
        self._packed = packed
        self._error: type[Exception] = zstandard.ZstdError
        self._decompressor: Any = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        while not self._output:
            self._input = self._input or self._packed.read1(_ZSTD_BITE_BYTES)
            if not self._input and self._frame is None:
                return 0
            if not self._input:
                raise EOFError
            self._unpack()
        count = min(len(view), len(self._output))
        view[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def _unpack(self) -> None:
        frame = self._frame or self._decompressor.decompressobj()
        try:
            self._output = memoryview(frame.decompress(self._input))
        except self._error as error:
            raise OSError(str(error)) from None
        self._input = frame.unused_data if frame.eof else b""
        self._frame = None if frame.eof else frame


class ByteStream:
    """Decompressed bytes of one source, by line or whole; damage becomes an InputError.

    Attributes:
        name: The source as the user wrote it, or ``<stdin>``.
        line: Number of lines read so far.
    """

    def __init__(self, source: _Source, name: str) -> None:
        self.name = name
        self.line = 0
        self._source = source
        packed: io.BufferedReader = io.BufferedReader(source, _BUFFER_BYTES)
        self._compression = ""
        self._handle: io.BufferedReader | gzip.GzipFile = packed
        if source.head.startswith(_GZIP_MAGIC):
            self._compression = "gzip"
            # A second buffer around this would lose the whole lines before the damage.
            self._handle = gzip.GzipFile(fileobj=packed, mode="rb")
        elif source.head.startswith(_ZSTD_MAGIC):
            self._compression = "zstd"
            self._handle = io.BufferedReader(_ZstdSource(packed, name), _BUFFER_BYTES)
        else:
            _refuse_false_suffix(name, source.head)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the source, as stored, that were consumed so far."""
        return self._source.consumed

    def next_line(self) -> bytes | None:
        r"""Return the next line with its ``\n``, or None at the end.

        Raises:
            InputError: The source is damaged here.
            RecordError: The line is longer than ``MAX_LINE_BYTES``; the next call goes on after it.
        """
        data = self._guarded(self._handle.readline, MAX_LINE_BYTES + 1)
        if not data:
            return None
        self.line += 1
        if len(data) > MAX_LINE_BYTES:
            while data and not data.endswith(b"\n"):
                data = self._guarded(self._handle.readline, _BUFFER_BYTES)
            raise RecordError("line too long", where=f"{self.name}:{self.line}", expected=f"<= {MAX_LINE_BYTES} bytes")
        return self._without_bom(data) if self.line == 1 else data

    def read_all(self) -> bytes:
        """Return everything; refuse more than ``MAX_DOCUMENT_BYTES``."""
        data = bytearray()
        while more := self._guarded(self._handle.read, 16 * _BUFFER_BYTES):
            data += more
            if len(data) > MAX_DOCUMENT_BYTES:
                expected = f"<= {MAX_DOCUMENT_BYTES} bytes in one document"
                raise InputError("too large", where=self.name, expected=expected, hint="--input-format jsonl or lines")
        return self._without_bom(bytes(data))

    def _without_bom(self, data: bytes) -> bytes:
        if data.startswith(_UTF16_BOMS):
            hint = "iconv -f UTF-16 -t UTF-8"
            raise InputError("not UTF-8", where=self.name, got="a UTF-16 byte order mark", hint=hint)
        return data.removeprefix(_UTF8_BOM)

    def _guarded(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except (EOFError, OSError, zlib.error) as error:
            where = f"{self.name}:{self.line}" if self.line else self.name
            last = f"after line {self.line}, the last one read" if self.line else "before the end of its first line"
            if isinstance(error, OSError) and error.errno is not None:
                raise InputError(f"cannot read on {last}", where=where, got=error.strerror or "") from error
            damage = "truncated" if isinstance(error, EOFError) else "corrupt"
            got = "" if damage == "truncated" else str(error)
            hint = f"fetch the file again; check it with {'gzip' if self._compression == 'gzip' else 'zstd'} -t"
            what = f"{damage} {self._compression} data {last}"
            raise InputError(what, where=where, got=got, hint=hint) from error


def _refuse_false_suffix(name: str, head: bytes) -> None:
    claimed = COMPRESSIONS.get(os.path.splitext(name.lower())[1])
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        if claimed:
            raise InputError(f"corrupt {claimed} data: no {claimed} header", where=name) from None


@contextmanager
def open_stream(
    source: str, *, stdin: BinaryIO | None = None, progress: Callable[[int], None] | None = None
) -> Iterator[ByteStream]:
    """Open a path, or stdin for ``-``, as decompressed bytes.

    Raises:
        InputError: The source is missing, is a directory or cannot be opened.
    """
    with ExitStack() as stack:
        name = STDIN if source == "-" else source
        try:
            handle = stdin or sys.stdin.buffer if source == "-" else stack.enter_context(open(source, "rb", 0))
            stored = _Source(handle, progress)
        except (OSError, ValueError) as error:
            raise unreadable(name, error) from error
        yield ByteStream(stored, name)
