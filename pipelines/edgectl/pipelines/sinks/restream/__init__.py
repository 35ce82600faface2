"""Annotated pictures to an RTSP server: the messages, the connection, the packets, and the sink that drives them."""
