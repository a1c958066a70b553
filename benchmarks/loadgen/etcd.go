// Loads etcd over gRPC: so many operations in flight, each by a goroutine that begins the next when one is answered.
// The last line of output is JSON with the fields that benchmarks/workload.py calls Loaded.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand"
	"os"
	"sort"
	"sync"
	"time"

	pb "go.etcd.io/etcd/etcdserver/etcdserverpb"
	"google.golang.org/grpc"
)

const patience = 5 * time.Second

type options struct {
	endpoint, op          string
	inFlight, keys, value int
	warmUp, duration      time.Duration
}

// What one goroutine saw: latencies of operations that ended in the measured time, in microseconds.
type seen struct {
	latencies     []float64
	total, errors int
}

func readOptions() options {
	var o options
	var warmUp, duration float64
	flag.StringVar(&o.endpoint, "endpoint", "", "host:port")
	flag.StringVar(&o.op, "op", "put", "put, get, or fill: put every key once")
	flag.IntVar(&o.inFlight, "inflight", 64, "operations at a time")
	flag.IntVar(&o.keys, "keys", 10000, "size of the key space")
	flag.IntVar(&o.value, "value", 256, "bytes of a value")
	flag.Float64Var(&warmUp, "warmup", 1, "seconds")
	flag.Float64Var(&duration, "duration", 5, "measured seconds")
	flag.Parse()
	o.warmUp, o.duration = time.Duration(warmUp*1e9), time.Duration(duration*1e9)
	return o
}

func connect(endpoint string) pb.KVClient {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	connection, err := grpc.DialContext(ctx, endpoint, grpc.WithInsecure(), grpc.WithBlock())
	if err != nil {
		log.Fatalf("cannot reach %s: %v", endpoint, err)
	}
	return pb.NewKVClient(connection)
}

func ask(client pb.KVClient, op string, key, value []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if op == "get" {
		_, err := client.Range(ctx, &pb.RangeRequest{Key: key}) // linearizable unless Serializable is set
		return err
	}
	_, err := client.Put(ctx, &pb.PutRequest{Key: key, Value: value})
	return err
}

func worker(number int, client pb.KVClient, o options, begin time.Time) seen {
	var found seen
	source := rand.New(rand.NewSource(time.Now().UnixNano() + int64(number)))
	value := make([]byte, o.value)
	source.Read(value)
	from, end := begin.Add(o.warmUp), begin.Add(o.warmUp+o.duration)
	next := number // of a fill: workers take turns
	for {
		key := source.Intn(o.keys)
		started := time.Now()
		if o.op == "fill" {
			if next >= o.keys {
				return found
			}
			key, next = next, next+o.inFlight
		} else if !started.Before(end) {
			return found
		}
		err := ask(client, o.op, []byte(fmt.Sprintf("bench/%010d", key)), value)
		ended := time.Now()
		found.total++
		if err != nil {
			found.errors++
		} else if !ended.Before(from) && ended.Before(end) {
			found.latencies = append(found.latencies, float64(ended.Sub(started))/1e3)
		}
	}
}

func main() {
	o := readOptions()
	client := connect(o.endpoint)
	results := make([]seen, o.inFlight)
	var running sync.WaitGroup
	begin := time.Now()
	for number := range results {
		running.Add(1)
		go func(number int) {
			defer running.Done()
			results[number] = worker(number, client, o, begin)
		}(number)
	}
	running.Wait()
	report(results, o)
}

func report(results []seen, o options) {
	var all []float64
	total, errors := 0, 0
	for _, found := range results {
		all = append(all, found.latencies...)
		total += found.total
		errors += found.errors
	}
	sort.Float64s(all)
	quantile := func(share float64) float64 {
		if len(all) == 0 {
			return 0
		}
		return all[int(share*float64(len(all)-1))]
	}
	rate := 0.0
	if o.duration > 0 {
		rate = float64(len(all)) / o.duration.Seconds()
	}
	json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"ops_per_s": rate, "p50_us": quantile(.5), "p99_us": quantile(.99), "p999_us": quantile(.999),
		"max_us": quantile(1), "errors": errors, "total": total,
	})
}
