"""Corpora that do not fit: sketches of parts of a corpus that merge into one exact test of the whole.

- :mod:`.settings`: what every sketch of a scan has in common;
- :mod:`.sketch`: ``Sketch``, which adds, merges and finishes;
- :mod:`.sources`: files and URLs as tasks of equal size, and their records;
- :mod:`.scan`: records to sketches;
- :mod:`.store`: the files of a scan;
- :mod:`.engine`: DataTrove runs the tasks;
- :mod:`.reduce`: DuckDB merges sketches that do not fit either;
- :mod:`.outcome`: exact tests of what was merged.
"""
