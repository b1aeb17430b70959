"""The report of one run, from its manifests alone: a table for the terminal, figures, one self-contained HTML page.

    print(comparison_table(report, winner="small:int8"))              # jobs.report.tables
    write_page("spam", artifacts, Path("report.html"))                # jobs.report.page

tables.py    numbers as text, the terminal table
canvas.py    palette and type of the figures, matplotlib → themed inline SVG
plots.py     quality against latency, learning curves, trials, confusion matrices
lineage.py   the steps and what each was made from, as a drawn graph
markup.py    HTML elements whose text is escaped unless it says that it is HTML
sections.py  one function a section of the page (front.py: those about the front)
page.py      finds the parts in the artifacts, writes the page
page.css     how the page looks, in light, dark and print
"""
