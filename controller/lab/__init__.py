"""What SREs try a policy with before they trust it, and look a judgement over with afterwards."""
