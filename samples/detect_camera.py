"""Live targets from a camera, a video or a GStreamer pipeline: a window, or an MP4 without one.

python detect_camera.py BUNDLE 0          (a window needs opencv-python, not -headless)
python detect_camera.py BUNDLE "v4l2src ! videoconvert ! appsink" seen.mp4
"""

import queue
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import cv2

from irstd.runtime import Detector
from irstd.runtime.media_cv2 import VideoReader, VideoWriter, draw_overlay

bundle, source, *headless = sys.argv[1:]
is_live = not Path(source).is_file()
waiting = queue.Queue(maxsize=2)


def read(frames):
    try:
        for frame in frames:
            if is_live and waiting.full():
                waiting.get()  # a late frame is worth less than the newest: drop the oldest
            waiting.put(frame)
    finally:
        waiting.put(None)


writer = VideoWriter(Path(headless[0]), fps=25) if headless else nullcontext()
with Detector.load(bundle) as detector, VideoReader(source) as frames, writer as video:
    threading.Thread(target=read, args=(frames,), daemon=True).start()
    while (frame := waiting.get()) is not None:
        picture = draw_overlay(frame, detector(frame))
        video.write(picture) if video else cv2.imshow("targets (q ends)", picture)
        if not video and cv2.waitKey(1) == ord("q"):
            break
