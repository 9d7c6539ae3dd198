"""A node without containers: runs the pods of one Kubernetes node as processes and reports what becomes of them."""
