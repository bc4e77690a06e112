"""Drawn studio cars and streets: images with exact masks, for trying everything out where no images are at hand.

A car is a parametric body in three dimensions (sedan, coupe, hatch, SUV, van or pickup), seen by a perspective camera
while it turns on its table, 16 views 22.5 degrees apart. Its glass is seen through and belongs to it, as in the
competition's masks; so do mirrors, wheels and antenna. Its shadow and its reflection do not.

No real picture is part of this. Matched roughly to the real photos are: the camera's distance, height, focal length and
vanishing point (fitted to the mean box of the masks in each of the 16 views); the car's share of the picture; the mean
brightness of car and studio and how much both differ from photo to photo; how frequent colours and kinds of cars are;
the room itself (a round white wall with large grey lettering, a grey foot, a turntable); and how little noise is left.

Streets have any number of classes and channels: see scenes.py.
"""

from __future__ import annotations

from carvana.data.demo.photo import VIEWS, draw_photo
from carvana.data.demo.scene_folder import kept_scenes, write_scenes
from carvana.data.demo.scenes import class_names, draw_scene
from carvana.data.demo.write import VERSION, car_id, write_demo

__all__ = [
    "VERSION",
    "VIEWS",
    "car_id",
    "class_names",
    "draw_photo",
    "draw_scene",
    "kept_scenes",
    "write_demo",
    "write_scenes",
]
