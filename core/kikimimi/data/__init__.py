"""Training data, from a corpus as it was downloaded to the order in which records are trained on.

``packing`` makes shards of a corpus, ``shards`` reads them, ``order`` plans and loads what is trained on.
The way of a record:

- shard: a tar with an index beside it (`kikimimi.data.shards`)
- `Record`: its JSON and the bytes of its clips (`kikimimi.data.shards.record`)
- task: asks something about a labelled clip (`kikimimi.contracts.task`)
- `Conversation`: turns of text and audio (`kikimimi.contracts.conversation`)
- `Rendered`: token ids, audio slots, loss mask, by the chat template (`kikimimi.contracts.component`)
- `Sample`: that, the clips as waveforms, and the views of the objective (`kikimimi.data.corpus`)
- `Batch`: samples in planned order (`kikimimi.contracts.batch`, `kikimimi.data.order.loader`)
- `Packed`: conversations end to end, audio tokens in their slots (`kikimimi.model.speech_lm`)
- `Scored`: logits at the positions that have a target (`kikimimi.contracts.scored`)
- loss: what the objective makes of them (`kikimimi.contracts.objective`)
"""
