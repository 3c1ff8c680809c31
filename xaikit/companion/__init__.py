"""What runs the notebooks and keeps what they leave.

`run` and `execute` run them under a profile (`profiles`), `record` keeps figures, tables, numbers and claims, `accept`
and `report` hold them against what is accepted; `download` fetches the papers' data; `plots` is the one style.
"""
