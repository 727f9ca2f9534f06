"""Workers: where trials run. They take requests and give back progress and outcomes as these come."""
