"""Ablation studies: train a grid of arms with several seeds each, store the trials, compare them.

Trials are stored as events in a journal. A report is computed from the stored trials, and rendered
as text, Markdown, CSV, JSON, charts and an HTML page.

- `preset`: what a preset is, and the three scales;
- `presets`: the papers' ablations;
- `claims`: claims of the papers, and whether the measured differences support them;
- `runners`: run trials in processes, on this machine or a Ray cluster;
- `events`: the records of the journal, such as the start of a sweep or the end of a trial;
- `journal`: the append-only file of events;
- `store`: finds trials by the hash of their config, and locks those that are running;
- `status`: which seeds of each arm have finished, have failed, are running or remain;
- `export`: trials as CSV or JSON;
- `arms`: the dataclasses of a report;
- `report`: computes a report from trials;
- `wording`: the sentences of a report;
- `pareto`: the Pareto frontier of accuracy against cost;
- `charts`: the charts of a report, each defined once;
- `themes`: the charts' colours and fonts, for image files and for the HTML page;
- `figure`: charts as PNG and SVG;
- `page`: report.html;
- `rendering`: a report in each output format, and its files.
"""
