"""Who looks at what in which light."""

from __future__ import annotations

from dataclasses import dataclass

from carvana.data.demo.camera import Camera, Pose
from carvana.data.demo.light import Lamps
from carvana.data.demo.surface import Floats


@dataclass(frozen=True)
class Scene:
    """A camera, a car's pose and the lamps: what a view consists of."""

    camera: Camera
    pose: Pose
    lamps: Lamps

    @property
    def eye(self) -> Floats:
        """The camera's place in the car's frame, (3,)."""
        return self.pose.to_car(self.camera.eye)

    def pixels(self, points: Floats) -> Floats:
        """Points of the car's frame (..., 3) in the photo (..., 2)."""
        return self.camera.project(self.pose.to_studio(points))
