"""The HTTP surfaces over :class:`llamadeploy.control_plane.control_plane.ControlPlane`."""
