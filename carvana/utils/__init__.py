"""What any part uses: files, devices, processes, progress, memory."""
