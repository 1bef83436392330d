"""What each level loses for each science case: measured, recorded, chosen by."""
