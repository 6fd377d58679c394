// Package fault carries page faults and breaks between two processes: a client that maps blocks of a pool, and the
// server that owns the pool. It is pure Go and Go assembly, and knows nothing of files, inodes or grants: a mapping is
// a number, a run is an address and a length.
//
// # Why not ordinary Go code
//
// A thread that faults holds a P and cannot reach a safe point, so Go code that resolves the fault of its own process
// deadlocks with the first stop-the-world. The client's half of a fault is therefore code that runs on the signal stack
// and needs nothing of the Go runtime: no allocation, no locks, no write barriers, no stack growth, no instrumentation.
// What runs there is in entry_unsafe.go and the assembly; everything else in this package is ordinary Go.
//
// # A fault
//
//	client thread                           server (Page.Serve)
//	load or store -> SIGSEGV
//	faultEntry -> onFault: range known?
//	claim a slot, REQUEST, ring the bell -> handle(request): allocate, commit, and, under the inode's lock,
//	divide the mapping, spin, wait on it
//	ANSWERED  <----------------------------  request.Grant(run, reply)
//	mmap the run, FREE (= acknowledgement)   the run is no longer in flight
//	return from the signal: access retried
//
// A fault that fails (beyond the end, pool full, server gone for good) is handed to the Go runtime's own handler, so
// the program dies with "unexpected fault address", or, under debug.SetPanicOnFault, gets a runtime error with an Addr
// method that Find turns into the range and the reason.
//
// # A flush that fails
//
// lines.TryFlush is an exception to that, so that who flushes needs neither deferred calls nor SetPanicOnFault, which would
// cost more than the flush. When an access in it faults and that cannot be resolved, or is a SIGBUS (memory that is lost, a
// file that was cut off), onFault does not hand the signal on but has the thread go on at the landing, where TryFlush
// returns the address: the kernel's exception table, with one line. SIGBUS has the same entry as SIGSEGV for it, and for
// nothing else.
//
// # A call
//
// Calls carry short messages of ordinary Go code of the client, and the answers to them, through slots of their own in the
// fault page: Calls.Do here, Page.ServeCalls there, in a goroutine apart from the one of Serve. They are an option: one
// that is not taken up in time (ErrUntaken) is made by other means.
//
// # A break
//
// Page.TakeBack waits until no answer over the runs is in flight, posts the runs in the break slots and sends
// BreakSignal to the process. Whichever thread gets the signal replaces the runs by inaccessible memory and says so in
// the slots. The signal is let through while a fault is being handled, on the same signal stack.
//
// # When the server dies
//
// The fault page and what the client has mapped stay, so its program goes on as long as it does not fault. A thread
// that faults waits, for as long as ClientOptions.Patience says; it cannot do otherwise, and when all Ps wait like
// that, no Go code of the client runs any more. So the next server needs no help of the client: it opens the page of
// the dead one by its name (OpenPage) and answers what waits there. Only then Client.Resume tells the client whose
// death to look for. A server that ends in an orderly way says so in the page (Page.Close), and nobody waits.
//
// # Who waits for whom
//
// A fault waits for the server, and keeps its P meanwhile. So the server must never need Go code of the client to
// answer a fault: breaks are carried out by whatever thread gets the signal, and answers that are in flight are mapped
// by threads that wait for theirs: their own, and those of goroutines in Range.Populate, which may have no P (see
// ask). The same must hold above this package: while a handler of Serve works, or anybody holds a lock that it may
// need, nobody may wait for the client in another way than by TakeBack, which has a time limit.
//
// # Locks, from the outside inwards
//
//	Page.breaking   one TakeBack at a time
//	  Page.mu       in-flight records, references; never held while waiting
//	Client.mu       list of ranges
//	  Client.end    whether Close has begun; never held while waiting
//	  registry.mu   tables of clients and ranges as Go sees them; never held while waiting
//
// Signal entries take no lock: they pin the entry of a table by its users count (see tables.go).
//
// # Limits
//
// A system call that is given an address that is not granted returns EFAULT; no signal is sent, so nothing here runs.
// Populate such pages first.
//
// signal.Ignore with BreakSignal, or without arguments, takes the break signal away from this package (signal.Notify
// does not: the Go runtime leaves an installed handler alone). Client.Reserve notices and fails; until then the server's
// breaks of this client time out.
//
// A break of part of a device DAX run fails where it cuts a page of the device's alignment; the server must break whole
// ones. Then, as after any break that fails, TakeBack returns ErrBusy.
//
// A process that replaces itself by another program (execve) while a server still counts grants of it may be killed by
// the break signal, which the new program does not expect. Close the connection first.
//
// Building with -race and -cover together instruments the signal entries with calls that must not be made there
// (-race demands -covermode=atomic). Leave one of them out.
package fault
