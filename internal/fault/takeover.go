package fault

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// OpenPage takes over a page that NewPageIn has made and whose server process has died. That process may have got as
// far as any instruction; the client goes on meanwhile. os.ErrClosed: it ended in an orderly way, and the client
// knows. Another error: it died before the page was whole, or this is none, or the client has cut it.
//
//	the server died              what is found         what happens
//	before it saw a request      slot REQUEST          the first sweep serves it, without the bell
//	while it served one          slot SERVING          REQUEST again: the request's own words are whole
//	  while it wrote the answer  slot SERVING          the same
//	after it had answered        slot ANSWERED         the client maps, or has mapped, what the answer says, which is
//	                                                   unknown here: in flight for every run until it has moved on
//	  before it woke the client  clientSleeps 1 or 0   the client naps for 10 ms at most, and finds the answer
//	asleep on the bell, or about serverSleeps 1        at worst somebody is woken who does not sleep
//	in TakeBack, waiting         serverWaits 1         the same
//	  while it wrote a break     break FREE            nobody has looked at it
//	  signal sent, or not yet    break POSTED          withdrawn; the signal finds nothing to do
//	  while it is carried out    break TAKEN           stuck: no TakeBack begins before the client has finished; it
//	                                                   might touch what is mapped there by then
//	  before it saw the end      break DONE, FAILED    free again
//	  anywhere                                         some runs may have been given back, which nobody remembers:
//	                                                   from now on every break takes all access (see unsure)
//	before it took up a call     call slot REQUEST     void: the client does not know whether it was done
//	while it served one          call slot SERVING     the same
//	  that was given up          call slot ABANDONED   free
//	in Close                     closed 0              as if it had not begun
//	                             closed 1              os.ErrClosed
//
// Every other value was put there by the client, to whom alone it matters: nothing in flight, break free. What the
// dead server had in flight or was breaking, and its grants, must be known to the caller of TakeBack from elsewhere:
// it has to take everything as granted that the client's mappings cover.
func OpenPage(path string) (*Page, error) {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("fault page: %w", err)
	}
	p, err := newPage(file)
	if err != nil {
		return nil, err
	}
	if err := p.guard(p.takeOver); err != nil {
		unix.Munmap(p.region)
		file.Close()
		return nil, fmt.Errorf("fault page %s: %w", path, err)
	}
	return p, nil
}

// takeOver makes of the shared words, and of what Page remembers of them, what the table of OpenPage says.
func (p *Page) takeOver() error {
	if atomic.LoadUint64(&p.shared.magic) != pageMagic {
		return errors.New("was made by a server of a different version, or not finished")
	}
	if atomic.LoadUint32(&p.shared.closed) != 0 {
		return os.ErrClosed
	}
	for i := range p.shared.faults {
		s := &p.shared.faults[i]
		if atomic.CompareAndSwapUint32(&s.state, slotServing, slotRequest) {
			continue
		}
		if atomic.LoadUint32(&s.state) == slotAnswered {
			p.answers++
			p.inFlight[i] = flightPlan{run: everything, number: p.answers}
		}
	}
	for i := range p.shared.breaks {
		state := &p.shared.breaks[i].state
		if atomic.CompareAndSwapUint32(state, breakPosted, breakFree) {
			continue
		}
		if atomic.LoadUint32(state) == breakTaken {
			p.stuck[i] = true
		} else {
			atomic.StoreUint32(state, breakFree)
		}
	}
	for i := range p.shared.calls {
		state := &p.shared.calls[i].state
		if atomic.CompareAndSwapUint32(state, slotRequest, slotVoid) || atomic.CompareAndSwapUint32(state, slotServing, slotVoid) {
			futexWake(state)
		} else {
			atomic.CompareAndSwapUint32(state, slotAbandoned, slotFree)
		}
	}
	p.unsure = true
	atomic.AddUint32(&p.shared.takeovers, 1)
	return nil
}

// Leave gives a page with a name up as the death of this process would: the client waits, and another server process
// may take it over. Serve must not be running, and nobody may use the page any more.
func (p *Page) Leave() error {
	if !p.enter() {
		return os.ErrClosed
	}
	p.closed.Store(true)
	p.leave()
	return p.file.Close()
}

// everything overlaps every run.
var everything = AddressRun{Address: 0, Length: math.MaxUint64}

// PageClosed reports whether a server has ended a page in an orderly way: it will not come back. page is as for
// ClientOptions.
func PageClosed(page *os.File) (bool, error) {
	n, err := pageWord(page, closedOffset)
	return n != 0, err
}

// PageTakeovers returns how many servers have taken over a page, the one that has made it not counted.
func PageTakeovers(page *os.File) (uint32, error) { return pageWord(page, takeoversOffset) }

func pageWord(page *os.File, off int64) (uint32, error) {
	var word [4]byte
	if _, err := page.ReadAt(word[:], off); err != nil {
		return 0, fmt.Errorf("fault page: %w", err)
	}
	return binary.NativeEndian.Uint32(word[:]), nil
}
