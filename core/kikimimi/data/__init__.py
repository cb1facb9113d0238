"""Training data, from a corpus as it was downloaded to the order in which records are trained on.

``packing`` makes shards of a corpus, ``shards`` reads them, ``order`` plans and loads what is trained on.
The way of a record:

- shard (`kikimimi.data.shards`): A tar with an index beside it says where each record lies, how long it is,
  and its hash.
- `Record` (`kikimimi.data.shards.record`): The JSON and the clips of one example, read by byte range.
- `Task` (`kikimimi.contracts.task`): Turns a labelled clip into a conversation, with a phrasing chosen by
  seed, dataset, pass and row.
- `Conversation` (`kikimimi.contracts.conversation`): Turns of text and audio parts, as chat templates know
  them.
- `Rendered` (`kikimimi.contracts.component`): The LLM's own chat template makes token ids, a loss mask, a
  slot for each clip, and spans that tell who says what.
- `Sample` (`kikimimi.contracts.batch`): The rendering with its waveforms, and the views that the objective
  asks for.
- `Batch` (`kikimimi.contracts.batch`): Samples laid end to end; the order and the size come from
  `kikimimi.data.order`.
- `Packed` (`kikimimi.contracts.scored`): The encoder and the adapter make audio tokens of the clips, which
  fill the slots.
- `Scored` (`kikimimi.contracts.scored`): The LLM's logits at the positions before targets, and nowhere else.
- `Loss` (`kikimimi.contracts.objective`): The objective compares them with the targets.
"""
