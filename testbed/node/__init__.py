"""A node without containers: runs the pods of one Kubernetes node as processes and reports what becomes of them.

A pod has an IP of its own, which its processes get as $POD_IP; $IMAGE_TAG is the tag of their image. Images are not
pulled: commands are found on the agent's PATH, and without `command` the image's name is the command (`image: shop:v2`
runs `shop`). An image whose name contains `missing` cannot be pulled. The annotation `testbed.serin.dev/oom-after: 5s`
has a pod's containers killed for memory 5 s after each start.

Real are: phases, conditions, restarts and their back-off, start-up, liveness and readiness probes (httpGet, tcpSocket,
exec), restart policies, init containers, deletion with grace and `preStop.sleep`. Ignored are: resources, volumes,
security contexts, other `preStop` hooks, sidecars (an init container with a restart policy of its own).
"""
