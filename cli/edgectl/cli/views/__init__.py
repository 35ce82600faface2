"""Results as text: each function makes a table or lines of a result, and reads nothing. Imported by the bodies of
commands alone, since rich and the components whose results these are take their time."""
