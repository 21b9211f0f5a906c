"""The console: what a browser shows of the mesh, one page that asks nobody but its own agent."""
