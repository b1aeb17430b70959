"""The report of one run, from its manifests alone: a table for the terminal, figures, one self-contained HTML page.

    print(comparison_table(report, winner="small:int8"))              # jobs.report.tables
    write_page("spam", artifacts, Path("report.html"))                # jobs.report.page

tables.py            numbers as text, the terminal table
svg.py               palette and type of the figures, matplotlib → themed inline SVG
plots.py             quality against latency, learning curves, trials, confusion matrices, lengths
label_placement.py   labels beside the points of a figure
lineage.py           the steps and what each was made from, as a drawn graph
html.py              HTML elements whose text is escaped unless it says that it is HTML
sections.py          one function a section of the page; front_sections.py, cascade_section.py: about the front, a cascade
page.py              finds the parts in the artifacts, writes the page
data_page.py         what prepare writes beside its data: rows, targets, lengths, languages, labels that look wrong
page.css             how the page looks, in light, dark and print
"""
