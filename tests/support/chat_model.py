"""The bundled story model with a chat format of its own: small enough to answer in milliseconds, real in every other way."""

import shutil

from wmcheck.watermark.bundled import bundled_path

TEMPLATE = """{%- if tools %}Tools: {{ tools | tojson }}
{% endif %}{%- for message in messages %}{%- if message.role == "function" %}{{ raise_exception("no such role") }}{%- endif %}
{{- message.role }}: {{ message.content }}
{% for call in message.tool_calls or [] %}<tool_call>{{ call.function.arguments.city }}</tool_call>
{% endfor %}{%- endfor %}{%- if add_generation_prompt %}assistant: Once{% endif %}"""


def chat_model(folder, template=TEMPLATE):
    """A model folder, made below ``folder``."""
    place = shutil.copytree(bundled_path("bundled:stories2m"), folder / "chatty")
    (place / "chat_template.jinja").write_text(template, "utf-8")
    return place
