"""`tollgate up`, `down`, `status`: every part of Tollgate on one machine, as child processes from pip wheels.

For others: `stack.running_stack`, a whole stack for tests and the demo. docs/adr/0008-real-parts-from-wheels.md.
"""
