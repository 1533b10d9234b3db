"""Files as such: written whole or not at all, read within limits, without running code.

`atomic` is the only way in which the project writes a file: a kill or a full disk leaves the
earlier file. `limits` bounds what any reader takes in; `images` and `pickles` open the formats
that could otherwise exhaust memory or run code. What a file means is the business of the packages
that read it: scenes, checkpoints, results.

Rejected: locking result files, as one writer for each and a rename are enough.
"""
