"""The parts of a search: how Ray Tune is set up, what a trial does in its process, what is told of it afterwards.

shapes.py    shapes that are too slow are found before anything trains
plan.py      search algorithm, scheduler, how many trials at once
rungs.py     asha within each shape, where several are kept
trial.py     one trial: runs the stage, tells Tune, leaves its model and its record
resume.py    going on with a search whose driver was killed or stopped
trials.py    the records of all trials as a table, the best trial's output
"""
