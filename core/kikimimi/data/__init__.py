"""Training data, from a corpus as it was downloaded to the order in which records are trained on.

Files of one subject begin with one word:

- ``audio``, ``opus``: clips.
- ``record``, ``tar``: a record, and the tar that holds many of them.
- ``index``: where the records of a shard lie; ``indexing``: of many shards at once.
- ``shards``, ``columns``, ``store``, ``remote``: many shards as one dataset, on disks and on servers.
- ``corpus``, ``fault``: a dataset as a task reads it, and the records of it that cannot be used.
- ``plan``, ``mixture``: the order of training.
- ``pack``, ``ledger``: a corpus becomes shards, with an account of what was left out.
- ``check``: every record verified.
- ``stats``, ``rates``, ``distribution``: what a dataset holds.
- ``show``: what the model is shown.
- ``synth``, ``grammar``: synthetic speech.
- ``workers``, ``whole_file``: processes, and files that are whole or not there.
"""
