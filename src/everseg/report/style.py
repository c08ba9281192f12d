"""The page's style sheet: one column that suits a phone, a desk and paper, in light and dark."""

STYLE = """
:root {
  --ink: #1a1d21; --soft: #5b626b; --ground: #fff; --card: #f5f6f8; --line: #dde0e5; --bar: #bcd6ee; --accent:
#0a5a9c; }
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e8eaed; --soft: #a3abb5; --ground: #14171b; --card: #1e2228; --line: #343a42; --bar: #234a6e;
    --accent: #7cc0f5;
  }
}
* { box-sizing: border-box }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin: 0 0 .25rem }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
section { margin: 2.75rem 0 0 }
.stream, .lead, .hint, caption { color: var(--soft) }
.stream { margin: .35rem 0 0 }
.lead { margin: 0 0 .9rem; max-width: 46rem }
dl, dd { margin: 0 }
.facts { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin-top: 1rem }
.facts dt, .hint { font-size: .82rem; font-weight: 400 }
.facts dt { color: var(--soft) }
.facts dd { font-weight: 600; overflow-wrap: anywhere }
.metrics { margin-top: 2rem }
.metrics > .hint { margin-right: .6rem }
.metrics > input { position: absolute; opacity: 0 }
.metrics > label {
  display: inline-block; padding: .25rem .9rem; margin: 0 .3rem .3rem 0; border: 1px solid var(--line);
  border-radius: 999px; cursor: pointer;
}
.metrics > input:checked + label { background: var(--accent); border-color: var(--accent); color:
var(--ground) } .metrics > input:focus-visible + label { outline: 3px solid var(--bar); outline-offset: 1px }
.panel { display: none }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin-top:
1rem } .cards > div { background: var(--card); border-radius: .6rem; padding: .8rem .9rem; break-inside: avoid
} .cards dt { font-weight: 600 }
.value { font-size: 1.7rem; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums }
.ends { min-height: 1.25em; font-variant-numeric: tabular-nums }
.meaning { font-size: .85rem; line-height: 1.35; margin-top: .3rem }
.scroll { overflow-x: auto }
.scroll:focus-visible { outline: 3px solid var(--bar) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
caption span { display: block; position: sticky; left: 0; max-width: min(46rem, calc(100vw - 2.5rem)) }
caption { caption-side: bottom; text-align: left; font-size: .82rem; padding-top: .5rem }
th { font-weight: 600; text-align: right; padding: .4rem .6rem; white-space: nowrap }
th[scope=row] { text-align: left; font-weight: 500; padding-left: 0 }
td { text-align: right; padding: .4rem .6rem; white-space: nowrap }
.heat { width: auto }
.heat thead th { white-space: normal; vertical-align: bottom; line-height: 1.25 }
.heat td { border: 2px solid var(--ground); min-width: 4.6rem; print-color-adjust: exact;
  -webkit-print-color-adjust: exact }
.heat th[scope=row] { padding-right: 1rem; position: sticky; left: 0; background: var(--ground) }
.heat .learned { outline: 2px solid var(--ink); outline-offset: -3px; font-weight: 700 }
.heat .unseen { font-style: italic }
.heat .none, .heat .mean { color: var(--soft) }
.heat .mean { font-weight: 600 }
.classes td { min-width: 4.2rem; padding: .15rem .6rem }
.classes thead th:nth-child(3) { text-align: left }
.classes td.key { min-width: 0; padding: 0 .2rem } .classes td.step { min-width: 0; text-align: left;
  color: var(--soft); font-size: .82rem }
.classes th[scope=row] { padding: .15rem 1rem .15rem 0 }
.swatch { display: inline-block; width: .85em; height: .85em; border-radius: .2em; margin-right: .35em;
  vertical-align: -.06em; box-shadow: inset 0 0 0 1px rgb(128 128 128 / .5);
  print-color-adjust: exact; -webkit-print-color-adjust: exact }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .4rem 0 0; font-size: .85rem }
.legend > span { white-space: nowrap }
.bars th[scope=row] { width: 1% }
.bars td { position: relative }
.bar { min-width: 7rem; isolation: isolate }
.fill { position: absolute; inset: 20% auto 20% 0; background: var(--bar); border-radius: 3px; z-index: -1;
  max-width: calc(100% - .6rem);
  print-color-adjust: exact; -webkit-print-color-adjust: exact }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 3rem }
.chart { min-width: 34rem; max-width: 56rem }
.chart svg { display: block; width: 100%; height: auto }
.strip { margin: 0 0 1.4rem; break-inside: avoid }
.name { margin: 0 0 .35rem; font-size: .85rem; color: var(--soft); overflow-wrap: anywhere }
.tiles { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: .6rem }
figure { margin: 0 }
img { display: block; width: 100%; height: auto; border-radius: .35rem }
figcaption { font-size: .85rem; padding-top: .25rem; display: flex; flex-wrap: wrap; justify-content:
space-between;
  gap: 0 .5rem; font-variant-numeric: tabular-nums }
summary { cursor: pointer }
pre { overflow-x: auto; background: var(--card); padding: 1rem; border-radius: .6rem; font-size: .85rem }
@media (max-width: 40rem) {
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)) }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)) }
  .heat td, .heat th { padding: .35rem .4rem; min-width: 3.6rem }
}
@media print {
  :root { --ink: #000; --soft: #444; --ground: #fff; --card: #f3f3f3; --line: #ccc; --bar: #ccd9e6; --accent:
  #000 } body { font-size: 10.5pt }
  main { padding: 0; max-width: none }
  section { margin-top: 1.6rem }
  h2, h3 { break-after: avoid }
  .metrics > .hint, .metrics > input:not(:checked) + label { display: none }
  .scroll { overflow: visible }
}
"""
