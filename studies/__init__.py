"""What settings were chosen by, and how good the result is: each a module for `python -m`.

`data_sets` names the data, `bases` makes models that lack a group of it, `harness` runs the cells
of a study that have no result yet, `results` keeps them, `tables` shows them.
"""
