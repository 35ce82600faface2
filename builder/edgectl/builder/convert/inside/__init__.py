"""What runs in the child, beside a framework, in whatever environment that framework lives: nothing here imports anything
else of ours, and nothing of a framework before it is needed. One file a framework (:mod:`.shape` says what each has)."""
