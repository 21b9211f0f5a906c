"""`pmoves-mesh top`: the mesh as it is, on a terminal, for as long as somebody looks."""
