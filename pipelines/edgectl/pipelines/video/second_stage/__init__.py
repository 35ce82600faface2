"""The second stage: a model that looks at crops of tracks, whose answers are votes on an attribute of the track."""
