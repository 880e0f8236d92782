package shm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/shmd/shmd/pkg/shm"
)

// A worker that takes jobs until it is asked to quit. shmd starts it; the channels are those of its group in the configuration.
func Example() {
	ctx := context.Background()
	r, err := shm.Attach(ctx, shm.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	jobs, err := r.Queue("jobs")
	if err != nil {
		log.Fatal(err)
	}
	results, err := r.Queue("results")
	if err != nil {
		log.Fatal(err)
	}
	if err := r.Ready(); err != nil {
		log.Fatal(err)
	}
	for {
		m, err := jobs.Receive(ctx)
		if errors.Is(err, shm.ErrQuit) {
			return // shmctl stop
		}
		if err != nil {
			log.Fatal(err)
		}
		// Answer first, ack then: a death between the two may repeat an answer, and never loses one.
		if err := results.Send(ctx, bytes.ToUpper(m.Bytes())); err != nil {
			m.Nack()
			return
		}
		if err := m.Ack(); err != nil {
			log.Fatal(err)
		}
	}
}

// An outsider, that is any program on the host, puts jobs on a queue and reads a result.
func ExampleAttach_outsider() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := shm.Attach(ctx, shm.Options{Region: "default", Name: "feeder", Produce: []string{"jobs"}, Consume: []string{"results"}})
	if err != nil {
		log.Fatal(err) // says what to do next
	}
	defer r.Close()
	jobs, _ := r.Queue("jobs")
	results, _ := r.Queue("results")
	if err := jobs.Send(ctx, []byte("hello")); err != nil {
		log.Fatal(err)
	}
	answer, err := results.ReceiveCopy(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)
}

// A worker with a CPU of its own waits for orders without sleeping, and for changes of its settings in the usual way.
func ExampleQueue_SetWait() {
	var r *shm.Region // from Attach
	orders, err := r.Queue("orders")
	if err != nil {
		log.Fatal(err)
	}
	orders.SetWait(shm.WaitSpin)
	for m, err := range orders.Messages(context.Background()) { // ends on shmctl stop
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", m.Bytes())
		m.Ack()
	}
}

// Loan and Commit write a message in place, without a copy.
func ExampleQueue_Loan() {
	var frames *shm.Queue // from Region.Queue
	loan, err := frames.Loan(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	defer loan.Abort() // does nothing after Commit
	n := copy(loan.Bytes(), "a frame from a camera")
	if err := loan.Commit(n); err != nil {
		log.Fatal(err)
	}
}
