"""Changes of a graph, each with a contract (:mod:`edgectl.builder.passes.base`)."""
