"""Training data, from a corpus as it was downloaded to the order in which records are trained on.

``packing`` makes shards of a corpus, ``shards`` reads them, ``order`` plans and loads what is trained on.
The way of a record:

- shard (`kikimimi.data.shards`): A tar; an index beside it says where each record lies, and its hash.
- `Record` (`kikimimi.data.shards.record`): The JSON and the clips of one example, read by byte range.
- `Task` (`kikimimi.contracts.task`): Makes a labelled clip a conversation, with a phrasing by seed and pass.
- `Conversation` (`kikimimi.contracts.conversation`): Turns of text and audio, as chat templates know them.
- `Rendered` (`kikimimi.contracts.component`): Token ids by the LLM's template, loss mask, slots, spans.
- `Sample` (`kikimimi.contracts.batch`): The rendering, its waveforms, and what the objective views besides.
- `Batch` (`kikimimi.contracts.batch`): Samples end to end; `kikimimi.data.order` gives order and size.
- `Packed` (`kikimimi.contracts.scored`): Audio tokens, by encoder and adapter, fill the slots.
- `Scored` (`kikimimi.contracts.scored`): The LLM's logits at the positions before targets, and nowhere else.
- `Loss` (`kikimimi.contracts.objective`): The objective compares them with the targets.
"""
