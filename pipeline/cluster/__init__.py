"""The machines of a run, as Ray knows them; beside `pipeline.job` all that imports ray."""
