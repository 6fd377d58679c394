package pmem
