"""The DNS view: names of the mesh, answered from the replica."""
