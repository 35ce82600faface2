"""From a picture to tracked objects: capture, preprocess, detector, decode, tracker, draw."""
