"""The style sheet of the HTML report.

Colours are Okabe and Ito's, which stay apart under every common kind of colour blindness; series also differ in shape or
dash. Light and dark follow the reader's system, and paper is always light.
"""

from __future__ import annotations

_LIGHT = (
    "--ground:#fff;--panel:#f5f6f8;--ink:#1b1f24;--soft:#59636e;--rule:#d5dae0;--grid:#e6e9ed;--strong:#0067a8;--other:#b84a00;"
    "--band:#dbe9f4;--bar:#8c97a3;--warn:#fdf3e1;--warnrule:#b87800"
)
_DARK = (
    "--ground:#14171b;--panel:#1e2329;--ink:#e8ebee;--soft:#a3adb8;--rule:#3a424b;--grid:#2a3037;--strong:#62b8f0;--other:#f0975a;"
    "--band:#1f3a50;--bar:#77838f;--warn:#33290f;--warnrule:#d9a032"
)

STYLE = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
html{{-webkit-text-size-adjust:100%}}
body{{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:62rem;background:var(--ground);color:var(--ink);
font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",sans-serif;overflow-wrap:anywhere}}
header{{border-bottom:2px solid var(--ink);padding-bottom:.75rem}}
header p{{margin:.15rem 0;color:var(--soft)}}
h1{{font-size:1.7rem;line-height:1.25;margin:0 0 .5rem}}
h2{{font-size:1.25rem;line-height:1.3;margin:2.6rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--rule)}}
h2.part{{font-size:1.45rem;border-top:2px solid var(--ink)}}
h3{{font-size:1.1rem;margin:2rem 0 .5rem}}
p{{margin:.6rem 0;max-width:48rem}}
sub{{line-height:0}}
a{{color:var(--strong)}}
a:focus-visible,.scroll:focus-visible{{outline:2px solid var(--strong);outline-offset:2px}}
nav ul{{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;list-style:none;margin:1rem 0 0;padding:0;font-size:.9rem}}
nav .part{{flex-basis:100%}}
ul{{padding-left:1.25rem;max-width:48rem}}
li{{margin:.3rem 0}}
.lead{{font-size:1.1rem;font-weight:600}}
.note{{color:var(--soft);font-size:.92rem}}
.warning{{background:var(--warn);border-left:4px solid var(--warnrule);padding:.55rem .8rem}}
dl{{margin:.8rem 0}}dd{{margin:0}}
.terms div{{display:grid;grid-template-columns:2.6rem 1fr;gap:.75rem;padding:.35rem 0 .35rem .6rem;
border-bottom:1px solid var(--grid);border-left:4px solid transparent}}
.terms dt{{font-weight:700}}
.terms div:first-child{{border-left-color:var(--strong);background:var(--panel)}}
.tiles{{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.75rem}}
.tiles div{{background:var(--panel);border:1px solid var(--rule);border-radius:6px;padding:.7rem .85rem}}
.tiles .strong{{border:2px solid var(--strong)}}
.tiles dt{{font-size:.82rem;color:var(--soft)}}
.tiles .value{{font-size:1.2rem;font-weight:650;line-height:1.3;margin:.15rem 0}}
.tiles .strong .value{{font-size:1.6rem}}
.tiles .words .value{{font-size:1rem}}
.tiles .small{{font-size:.82rem;color:var(--soft)}}
.scroll{{overflow-x:auto}}
table{{border-collapse:collapse;min-width:min(100%,34rem);font-size:.88rem;font-variant-numeric:tabular-nums;
margin:.6rem 0 1rem;overflow-wrap:normal}}
caption{{caption-side:top;text-align:left;color:var(--soft);padding:.2rem 0 .45rem;font-size:.88rem}}
th,td{{text-align:left;vertical-align:top;padding:.34rem 1rem .34rem 0;border-bottom:1px solid var(--grid);font-weight:400}}
caption span{{display:block;position:sticky;left:0;max-width:min(58rem,calc(100vw - 2.5rem))}}
td:last-child:not(.number):not(.code){{min-width:13rem}}
thead th{{border-bottom:1.5px solid var(--ink);font-weight:600;vertical-align:bottom}}
.number{{text-align:right;white-space:nowrap}}
thead .number{{white-space:normal}}
.code{{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.8rem;
overflow-wrap:anywhere}}
summary{{cursor:pointer;color:var(--soft);font-size:.88rem}}
td.code{{min-width:9rem}}
figure{{margin:1rem 0 1.2rem}}
figcaption{{color:var(--soft);font-size:.88rem;margin-top:.3rem}}
.plot{{display:block;width:100%;min-width:36rem;max-width:52rem;height:auto}}
.plot text{{fill:var(--ink);font-size:12.5px}}
.plot .tick,.plot .axis,.plot .note{{fill:var(--soft);font-size:11.5px}}
.plot .label.strong{{font-weight:650}}
.grid{{stroke:var(--grid)}}.zero{{stroke:var(--soft);stroke-width:1.5}}
.band{{fill:var(--band)}}.plate{{fill:var(--ground);stroke:var(--rule)}}
.bar{{fill:var(--bar)}}.bar.strong{{fill:var(--strong)}}.bar.other{{fill:var(--other)}}
.interval{{stroke:var(--soft);stroke-width:2}}.interval.strong{{stroke:var(--strong);stroke-width:2.5}}
.dot{{fill:var(--soft)}}.dot.strong{{fill:var(--strong)}}.dot.other{{fill:var(--other)}}
.curve{{fill:none;stroke-width:2.5}}.curve.strong{{stroke:var(--strong)}}.curve.other{{stroke:var(--other)}}
.dashed{{stroke-dasharray:7 4}}
.case{{stroke:var(--ink);stroke-width:2;stroke-dasharray:2 3}}
@media (max-width:36rem){{body{{padding:1.25rem .9rem 3rem}}h1{{font-size:1.35rem}}.terms div{{grid-template-columns:2rem 1fr}}}}
@page{{size:A4;margin:16mm 14mm}}
@media print{{
:root{{color-scheme:light;{_LIGHT}}}
html{{font-size:9.5pt}}body{{max-width:none;padding:0}}
nav{{display:none}}
h1{{font-size:15pt}}h2{{font-size:12pt;margin-top:1.4rem}}h2.part{{break-before:page}}
h2,h3,caption{{break-after:avoid}}
figure,tr,.tiles div,.terms div{{break-inside:avoid}}
thead{{display:table-header-group}}
td.code,td:last-child:not(.number):not(.code){{min-width:0}}
.scroll{{overflow:visible}}.plot{{min-width:0;max-width:100%}}
.tiles{{grid-template-columns:repeat(3,1fr)}}
details::details-content{{content-visibility:visible;display:block;height:auto}}summary{{display:none}}
.bar,.band,.warning,.terms div,.tiles div{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
a{{color:inherit;text-decoration:none}}
}}
""".strip()
