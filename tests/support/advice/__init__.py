"""Refusals and what they say is to be done: tables of faults with their cures as functions.

`table` has the form of a case and finds all refusals in the code; the other modules are the cases.
Files of captures and scenes are made by the other helpers of `support`.
"""
