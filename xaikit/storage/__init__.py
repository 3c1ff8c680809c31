"""What everything rests on: places, files, caches, seeds, and one arithmetic on every machine.

`cache` keeps heavy results by what they were made from (`sources`, `hashing`), `files` writes whole files or none,
`paths` says where things lie, `seeding` is where all randomness starts; `arithmetic` and `portable` fix the order of
every sum, and `side_by_side` runs independent jobs on a thread each. Nothing here is loaded before it is asked for.
"""
