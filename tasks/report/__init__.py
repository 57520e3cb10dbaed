"""The report of a run: pictures, tables, one self-contained page, and Prefect artifacts, all from plain numbers.

Only `artifacts.py` knows Prefect; everything else is a pure function of `model.ReportInputs`.
"""
