"""WHERE: Ray, storage and clouds. Knows jobs only as command lines; imports neither `serve` nor `jobs`."""
