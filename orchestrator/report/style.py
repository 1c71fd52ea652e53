"""How the page looks: one column on a phone, two of pictures on a wide screen, light, dark and in print."""

LIGHT = (
    "--page:#fff;--card:#f6f7f9;--ink:#1c2127;--muted:#5b6570;--grid:#d5dae0;--line:#dfe3e8;"
    "--c1:#1f62b4;--c2:#b85c00;--c3:#1b7837;--c4:#b2182b;--c5:#7a4fa3;--good:#1b7837;--bad:#b2182b"
)
DARK = (
    "--page:#14171b;--card:#1d2126;--ink:#e8eaed;--muted:#a3adb8;--grid:#3a424b;--line:#343b43;"
    "--c1:#7fb2f0;--c2:#f0a860;--c3:#74c58a;--c4:#f2858f;--c5:#c3a3e8;--good:#74c58a;--bad:#f2858f"
)
"""The colours of the page and of its pictures."""

STYLE = (
    f":root{{color-scheme:light dark;{LIGHT}}}\n@media (prefers-color-scheme:dark){{:root{{{DARK}}}}}"
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif;-webkit-text-size-adjust:100%}
main,header,nav{max-width:1180px;margin:0 auto;padding:0 16px}
header{padding-top:20px}
h1{font-size:1.6rem;line-height:1.2;margin:.2em 0;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:2.2em 0 .4em;padding-top:.5em;border-top:2px solid var(--line)}
h3{font-size:1.05rem;margin:1.4em 0 .3em}
p,ul{max-width:75ch;margin:.5em 0;overflow-wrap:anywhere}
a{color:var(--c1)}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:12px;font-size:.9rem}
.kicker,.muted{color:var(--muted)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,230px),1fr));gap:12px;margin:16px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px;
overflow-wrap:anywhere}
.tile h3{margin:0;font-size:.8rem;color:var(--muted);font-weight:600;text-transform:uppercase;letter-spacing:.04em}
.tile p{margin:.25em 0;font-size:.95rem}
.tile .big{font-size:1.35rem;font-weight:650;line-height:1.25}
.path{display:flex;flex-wrap:wrap;gap:8px 22px;list-style:none;padding:0 20px 0 0;margin:14px 0;max-width:none}
.path li{position:relative;border:1px solid var(--line);border-radius:8px;padding:6px 10px;background:var(--card);
font-size:.85rem;min-width:104px}
.path li:not(:last-child)::after{content:"\\2192";position:absolute;right:-19px;top:50%;transform:translateY(-50%);
color:var(--muted)}
.path b{display:block;font-size:.95rem}
.path .gain{border-color:var(--good);border-width:2px}
.path .gain em{color:var(--good);font-style:normal;font-weight:650}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));gap:16px;margin:12px 0}
.figures{align-items:start}
.figures>*{min-width:0}
figure.wide{grid-column:1/-1}
.minute{max-width:90ch;margin:.5em 0}.minute dt{font-weight:650;margin-top:.6em}
.minute dd{margin:0;overflow-wrap:anywhere}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px;min-width:0}
figure svg{display:block;width:100%;height:auto;max-width:640px;margin:0 auto}
figure img{display:block;max-width:100%;height:auto;margin:0 auto;background:#fff;border-radius:4px;padding:4px}
figcaption{font-size:.88rem}
figcaption p{margin:.4em 0}
.scroll{overflow-x:auto;margin:10px 0;max-width:100%}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{padding:4px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child{text-align:left}
thead th{color:var(--muted);font-weight:600;vertical-align:bottom}
table.words td{text-align:left;white-space:normal;min-width:9em}
pre{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px;white-space:pre-wrap;
overflow-wrap:anywhere;
font-size:.82rem;line-height:1.4;max-width:100%}
details{margin:8px 0}
summary{cursor:pointer;color:var(--c1)}
.bar{display:flex;height:22px;border-radius:5px;overflow:hidden;background:var(--grid);max-width:760px;margin:8px 0}
.bar span{display:block;min-width:1px}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
footer{max-width:1180px;margin:3em auto 1em;padding:0 16px;color:var(--muted);font-size:.85rem}
@media (max-width:560px){h2{font-size:1.15rem}figure{padding:6px}th,td{padding:4px 7px}}
@media print{:root{color-scheme:light;--page:#fff;--card:#fff;--ink:#000;--muted:#444;--grid:#ccc;--line:#bbb;
--c1:#1f62b4;--c2:#b85c00;--c3:#1b7837;--c4:#b2182b;--c5:#7a4fa3;--good:#1b7837;--bad:#b2182b}
nav{display:none}body{font-size:10pt}figure,.tile,tr{break-inside:avoid}h2,h3{break-after:avoid}
.scroll{overflow:visible}th,td{white-space:normal;padding:2px 5px}
.figures{grid-template-columns:1fr 1fr}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
)
"""The page's only style sheet. The pictures take their colours from its variables."""
