"""A camera: GStreamer's RTSP server with a moving test picture. Run by a Python that has GStreamer's bindings.

Arguments: port, encoder (``jpeg`` or ``h264`` with a key frame each second), and ``user:password`` or nothing.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

_PAY = {
    "jpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 pt=96",
}


def main(port: str, encoder: str, login: str = "") -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    picture = (
        "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=25/1"
    )
    factory.set_launch(f"( {picture} ! {_PAY[encoder]} )")
    factory.set_shared(True)
    if login:
        auth = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "user")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(*login.split(":")), token)
        server.set_auth(auth)
        factory.add_role_from_structure(
            Gst.Structure.from_string("user,media.factory.access=true,media.factory.construct=true")[0]
        )
    server.get_mount_points().add_factory("/test", factory)
    server.attach(None)
    sys.stdout.write("up\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


main(*sys.argv[1:])
