"""What other clouds' interfaces answer -> a state document.

Pure converters: JSON values in, plain dictionaries and notes out. What a document cannot say is
noted, never dropped in silence, and never widens anything: an allow is left out, a deny covers more.
"""
