"""Is the camera's view what it should be? :mod:`.measure` looks at pictures, :mod:`.judge` decides from what was measured,
:mod:`.watch` puts them together for one stream."""
