"""The parts of a search: how Ray Tune is set up, what a trial does in its process, what is told of it afterwards.

driver.py          runs a step as the trials of a search
shapes.py          shapes that are too slow are found before anything trains
setup.py           search algorithm, scheduler, how many trials at once
schedulers.py      comparing trials at rungs: in step, or within each shape
trial.py           one trial: runs the stage, tells Tune, leaves its model and its record
records.py         what trials have left of themselves, which a killed search goes on from
resume.py          going on with a search whose driver was killed or stopped
trial_results.py   the records of all trials as a table, the best trial's output
"""
