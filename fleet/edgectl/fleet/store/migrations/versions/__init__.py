"""One file a revision, in order; a file that was released is never changed."""
