// Asks a vlserve server about a picture over gRPC and prints the answer as it comes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"

	pb "vlserve/vision"
)

func ask(server, image, prompt string) error {
	picture, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	connection, err := grpc.Dial(server, grpc.WithInsecure())
	if err != nil {
		return err
	}
	defer connection.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	request := &pb.VisionRequest{Image: picture, Prompt: prompt}
	stream, err := pb.NewVisionServiceClient(connection).ChatStream(ctx, request)
	if err != nil {
		return err
	}
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			fmt.Println()
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Print(piece.GetText())
	}
}

func main() {
	log.SetFlags(0)
	image := flag.String("image", "", "a picture's path")
	server := flag.String("server", "localhost:50051", "host:port of the server")
	flag.Parse()
	prompt := flag.Arg(0)
	if prompt == "" {
		prompt = "Describe the image"
	}
	if err := ask(*server, *image, prompt); err != nil {
		log.Fatal(err)
	}
}
