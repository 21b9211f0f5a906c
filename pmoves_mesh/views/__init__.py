"""What readers see of the mesh: each view reads the replica, and none reads another."""
