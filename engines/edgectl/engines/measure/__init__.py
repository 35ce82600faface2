"""How fast engines are, and under which conditions that was measured."""
