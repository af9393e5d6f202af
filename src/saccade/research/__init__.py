"""What makes the evidence anew: studies, analysis of theory, the demo, training of the embedded models.

A part of its own: it imports the package and the package never imports it. Its commands and its reader of
result files are found by entry points, as those of any other distribution would be.
"""
